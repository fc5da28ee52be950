"""Networks: operations, layers, generator, discriminator, teacher."""
