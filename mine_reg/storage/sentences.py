"""What a person reads of an exception: one sentence."""

import re

# "ITK ERROR: HDF5TransformIOTemplate(0x55a4c1e62f80): ", and what SimpleITK puts before its own
_ITK = re.compile(r"^(sitk::ERROR:\s*|ITK ERROR:\s*)*(\w+\(0x[0-9a-f]+\):\s*)?", re.IGNORECASE)


def one_sentence(error: BaseException) -> str:
    """The reason in one line: file and reason of the system's errors, the last line of ITK's, never an empty one."""
    if isinstance(error, MemoryError):
        return f"there is not enough memory ({str(error) or 'asked for more than is free'}); close other programs"
    if isinstance(error, OSError) and error.filename and error.strerror:  # else "[Errno 2] ..."
        return f"{error.filename}: {error.strerror}"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (_ITK.sub("", lines[-1]) if lines else "") or type(error).__name__
