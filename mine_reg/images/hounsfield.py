"""Densities that tell parts of a chest CT apart, in HU."""

AIR_HU = -1024  # nothing is less dense; exports hold down to -3024 HU outside the field of view
BODY_HU = -500  # between air, or lung, and soft tissue
