"""Shares and means of numbers that come in clusters, with 95 % intervals that count clusters.

Drawings of one name are not independent: some things are easier to draw than others. Shares get Wilson's
interval (1927) for the effective number of drawings, which is their number divided by the design effect of
the clusters (Kish 1965; Korn and Graubard 1998); means get Student's of the same variance.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist

#: Both ends of a 95 % interval are so many standard deviations away.
Z = NormalDist().inv_cdf(0.975)


@dataclass(frozen=True)
class Estimate:
    """A share or a mean, and its 95 % interval: None where there are fewer than two clusters."""

    value: float
    low: float | None
    high: float | None


def share(clusters: Sequence[Sequence[bool]]) -> Estimate:
    """The share of hits among all, with Wilson's interval for the effective number of independent ones.

    That is between the number of clusters and the number of all; the former where all are hits, or none.
    """
    n = sum(map(len, clusters))
    p = sum(map(sum, clusters)) / n
    if len(clusters) < 2:
        return Estimate(p, None, None)
    effective = float(len(clusters))
    if 0 < p < 1:
        variance = max(_variance(clusters), p * (1 - p) / n)
        effective = max(effective, p * (1 - p) / variance)
    middle = (p + Z**2 / (2 * effective)) / (1 + Z**2 / effective)
    half = Z / (1 + Z**2 / effective) * sqrt(p * (1 - p) / effective + Z**2 / (4 * effective**2))
    return Estimate(p, max(0.0, middle - half), min(1.0, middle + half))


def mean(clusters: Sequence[Sequence[float]]) -> Estimate:
    """The mean of all numbers, with Student's interval for one degree of freedom less than clusters."""
    value = sum(map(sum, clusters)) / sum(map(len, clusters))
    if len(clusters) < 2:
        return Estimate(value, None, None)
    half = student(len(clusters) - 1) * sqrt(_variance(clusters))
    return Estimate(value, value - half, value + half)


def student(freedom: int) -> float:
    """Student's t for a 95 % interval: exact for one and two degrees of freedom, then a series.

    The series is Abramowitz and Stegun's 26.7.5, and too small by 0.12 % at most.
    """
    if freedom <= 2:
        return (12.7062, 4.3027)[freedom - 1]
    terms = (
        (Z**3 + Z) / 4,
        (5 * Z**5 + 16 * Z**3 + 3 * Z) / 96,
        (3 * Z**7 + 19 * Z**5 + 17 * Z**3 - 15 * Z) / 384,
        (79 * Z**9 + 776 * Z**7 + 1482 * Z**5 - 1920 * Z**3 - 945 * Z) / 92160,
    )
    return Z + sum(term / freedom**i for i, term in enumerate(terms, 1))


def _variance(clusters: Sequence[Sequence[float]]) -> float:
    """Of the mean of all numbers, when clusters were drawn at random (linearised, with k / (k - 1))."""
    n, k = sum(map(len, clusters)), len(clusters)
    middle = sum(map(sum, clusters)) / n
    return k / (k - 1) * sum((sum(cluster) - len(cluster) * middle) ** 2 for cluster in clusters) / n**2
