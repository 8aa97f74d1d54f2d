"""SimpleITK and tensors: image files, transforms, points and lungs in physical space. The only place where the two
meet."""
