"""A made-up data set with a known truth: abdominal CT and MR slices with liver tumours."""

from .patients import REGIONS, PhantomPatient, make_phantom, phantom_patient
from .tissue import LESION_TYPES, PHANTOM_VERSION, PHASES

__all__ = ["LESION_TYPES", "PHANTOM_VERSION", "PHASES", "REGIONS", "PhantomPatient", "make_phantom", "phantom_patient"]
