"""What a small X-ray tube sends, and what water and calcium take from it.

The photons are those of a tungsten tube at 60 kV behind 0.5 mm of aluminium, at
eight energies. Attenuation is tabulated, and a straight line in log-log between::

    energy   20    25    30    35    40    45    50    55  keV
    photons  0.26  0.22  0.18  0.13  0.09  0.06  0.04  0.02

Sources: mass attenuation, Hubbell & Seltzer (1995), NISTIR 5632,
https://dx.doi.org/10.18434/T4D01F; the tube, Kramers (1923),
https://doi.org/10.1080/14786442308565244
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

REFERENCE_KEV = 25.0
"""The energy at which the maps of attenuation are told, relative to water."""
TUBE_KEV = 60.0
ENERGIES_KEV = np.arange(20.0, 60.0, 5.0)

_TABLE_KEV = (20.0, 30.0, 40.0, 50.0, 60.0)
_TABLE_CM2_G = {
    "water": (0.8096, 0.3756, 0.2683, 0.2269, 0.2059),
    "aluminium": (3.441, 1.128, 0.5685, 0.3681, 0.2778),
    "calcium": (13.06, 4.080, 1.830, 1.019, 0.6578),
}
_FILTER_G_CM2 = 0.05 * 2.699  # 0.5 mm of aluminium


def mass_attenuation(material: str, energy_kev: ArrayLike) -> NDArray[np.float64]:
    """Return the mass attenuation in cm²/g of water, aluminium or calcium, from 20 to 60 keV."""
    table = np.log(_TABLE_CM2_G[material])
    attenuation: NDArray[np.float64] = np.exp(np.interp(np.log(energy_kev), np.log(_TABLE_KEV), table))
    return attenuation


def photon_weights() -> NDArray[np.float64]:
    """Return which share of the photons that leave the filter has each energy; the sum is 1."""
    from_tube = TUBE_KEV / ENERGIES_KEV - 1.0
    behind_filter: NDArray[np.float64] = from_tube * np.exp(
        -mass_attenuation("aluminium", ENERGIES_KEV) * _FILTER_G_CM2
    )
    behind_filter /= behind_filter.sum()
    return behind_filter


def attenuation_per_cm() -> NDArray[np.float64]:
    """Return what a map's value of 1.0 takes away per cm at each energy: (light and heavy, energy).

    Both equal water at ``REFERENCE_KEV``. From there the light part follows water, the heavy part calcium.
    """
    water, calcium = (mass_attenuation(material, ENERGIES_KEV) for material in ("water", "calcium"))
    at_reference = mass_attenuation("water", REFERENCE_KEV) / mass_attenuation("calcium", REFERENCE_KEV)
    return np.stack([water, calcium * at_reference])


def effective_water_per_cm() -> float:
    """Return the attenuation of a thin layer of water in this beam, per cm: as at 26 keV."""
    return float(photon_weights() @ attenuation_per_cm()[0])
