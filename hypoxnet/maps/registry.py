"""All kinds of maps: ours, and those that other packages register under `hypoxnet.maps`."""

from __future__ import annotations

from importlib.metadata import entry_points

from hypoxnet.errors import MapError
from hypoxnet.maps.kinds.base import MapKind
from hypoxnet.maps.kinds.diffusion import ADC, IVIM
from hypoxnet.maps.kinds.optics import PHOSPHORESCENCE, RATIOMETRIC, SATURATION
from hypoxnet.maps.kinds.oxygen import OE
from hypoxnet.maps.kinds.perfusion import DCE
from hypoxnet.maps.kinds.pet import PET, RATIO, SUV
from hypoxnet.maps.kinds.relaxation import DR2STAR, INVERSION, R2STAR, VFA
from hypoxnet.quantities import suggestion

ENTRY_POINT_GROUP = "hypoxnet.maps"
KINDS = {
    kind.name: kind
    for kind in (
        SUV,
        RATIO,
        PET,
        VFA,
        INVERSION,
        OE,
        R2STAR,
        DR2STAR,
        DCE,
        ADC,
        IVIM,
        PHOSPHORESCENCE,
        SATURATION,
        RATIOMETRIC,
    )
}


def known_kinds() -> dict[str, MapKind]:
    """Every kind by name.

    Raises:
        MapError: Another package registers a name that is taken, or something that is no kind.
    """
    kinds = dict(KINDS)
    for point in entry_points(group=ENTRY_POINT_GROUP):
        if point.name in kinds:
            raise MapError(f"the kind of map {point.name} of {point.value} has a name that is taken; rename it")
        kind = point.load()
        if not isinstance(kind, MapKind):
            raise MapError(f"{point.value} is no MapKind; register an instance under {ENTRY_POINT_GROUP}")
        kinds[point.name] = kind
    return kinds


def kind_of(name: str) -> MapKind:
    """The kind of a name.

    Raises:
        MapError: There is none.

    Example:
        >>> kind_of("r2star").summary
        'R2* and T2* from a multi-echo gradient echo'
    """
    kinds = known_kinds()
    if name not in kinds:
        raise MapError(f"there is no kind of map {name!r}; there are {', '.join(kinds)}{suggestion(name, kinds)}")
    return kinds[name]
