"""One pair of one's own: registration, refinement, and the files that `mine-reg` reads and writes."""
