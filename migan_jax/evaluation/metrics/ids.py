"""Paired and unpaired inception discriminative scores, P-IDS and U-IDS.

Zhao et al., Large Scale Image Completion via Co-Modulated Generative Adversarial
Networks, 2021, section 4: how often a linear classifier of features takes fakes for
real ones. Scikit-learn's solver, on the host.
"""

from typing import NamedTuple

import numpy as np


class Scores(NamedTuple):
    """P-IDS and U-IDS, shares in [0, 1]: 0 for separable sets, higher is better."""

    p_ids: float
    u_ids: float


def check_count(count: int, dimension: int) -> None:
    """Raises ValueError where any `count` pairs could be separated.

    2N points in general position in D dimensions are separable if 2N <= D + 1: both
    scores are 0 then, whatever the images look like.
    """
    if 2 * count <= dimension + 1:
        raise ValueError(
            f'{count} images are too few for P-IDS and U-IDS: {2 * count} points of '
            f'{dimension} features can always be separated, so both would be 0; more '
            f'than {(dimension + 1) // 2} images are needed (10,000 and more are usual)'
        )


def inception_discriminative_scores(real: np.ndarray, fake: np.ndarray) -> Scores:
    """P-IDS and U-IDS of features.

    A linear support vector machine (squared hinge, C = 1, primal) is fitted to both
    sets; U-IDS is its error on what it was fitted to, P-IDS the share of pairs in
    which the fake lies further on the real side than its original.

    Args:
        real: f[N, D].
        fake: f[N, D], fake[i] painted from the image of real[i].

    Returns:
        `Scores`.

    Raises:
        ValueError: shapes that differ or are not [N, D].
    """
    # Imported here: training without these scores does not need it.
    from sklearn.svm import LinearSVC

    if np.ndim(real) != 2 or np.shape(real) != np.shape(fake):
        raise ValueError(
            'expected real and fake features of one shape [N, D], row by row of the '
            f'same image, got {list(np.shape(real))} and {list(np.shape(fake))}'
        )
    count = len(real)
    # Written straight into the float64 array that the solver wants: no second copy.
    features = np.empty((2 * count, np.shape(real)[1]), np.float64)
    features[:count], features[count:] = real, fake
    labels = np.repeat([1, 0], count)
    machine = LinearSVC(dual=False, C=1).fit(features, labels)
    decision = machine.decision_function(features)
    # The sign of the decision is the predicted class, positive: real.
    wrong = (decision > 0) != (labels == 1)
    paired = decision[count:] > decision[:count]
    return Scores(p_ids=float(np.mean(paired)), u_ids=float(np.mean(wrong)))
