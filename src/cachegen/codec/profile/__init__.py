"""The profile of a model: what coding its caches needs, measured offline, and its file."""

from cachegen.codec.profile.description import CODECS_WITH_PROFILE
from cachegen.codec.profile.profile import NO_PROFILE, Profile
from cachegen.codec.profile.reading import read_profile, shipped_profile
from cachegen.codec.profile.steps import StepLimits, step_limits

__all__ = [
    "CODECS_WITH_PROFILE",
    "NO_PROFILE",
    "Profile",
    "StepLimits",
    "read_profile",
    "shipped_profile",
    "step_limits",
]
