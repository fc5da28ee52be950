"""ICC profiles of cameras and screens, made byte by byte: Pillow makes sRGB only."""

import struct

# Red, green and blue in XYZ, adapted to D50, and the curve: an exponent, or the five
# numbers of sRGB's.
_SRGB_CURVE = (2.4, 1 / 1.055, .055 / 1.055, 1 / 12.92, .04045)
SPACES = {
    'Display P3': ((.51512, .24120, -.00105), (.29198, .69225, .04189),
                   (.15710, .06657, .78407), _SRGB_CURVE),
    'Adobe RGB': ((.60974, .31111, .01947), (.20528, .62567, .06087),
                  (.14919, .06322, .74457), (563 / 256,)),
    'ProPhoto RGB': ((.79767, .28804, .0), (.13519, .71188, .0),
                     (.03134, .00009, .82491), (1.8,)),
}


def profile(space: str) -> bytes:
    """A display profile (version 4) of one of `SPACES`: matrix and curve."""
    *colorants, curve = SPACES[space]
    kind = {1: 0, 5: 3}[len(curve)]
    curve = b'para\0\0\0\0' + struct.pack('>HH', kind, 0) + _fixed(*curve)
    tags = {b'wtpt': _xyz(.9642, 1, .8249), b'rXYZ': _xyz(*colorants[0]),
            b'gXYZ': _xyz(*colorants[1]), b'bXYZ': _xyz(*colorants[2]),
            b'rTRC': curve, b'gTRC': curve, b'bTRC': curve}
    at = 128 + 4 + 12 * len(tags)
    table, body = struct.pack('>I', len(tags)), b''
    for name, content in tags.items():
        table += name + struct.pack('>II', at + len(body), len(content))
        body += content
    header = (struct.pack('>I4xI', at + len(body), 0x04200000) + b'mntrRGB XYZ '
              + struct.pack('>6H', 2020, 1, 2, 3, 4, 5) + b'acsp' + bytes(28)
              + _fixed(.9642, 1, .8249)).ljust(128, b'\0')
    return header + table + body


def _xyz(*values):
    return b'XYZ \0\0\0\0' + _fixed(*values)


def _fixed(*values):
    return struct.pack(f'>{len(values)}i', *(round(value * 65536) for value in values))
