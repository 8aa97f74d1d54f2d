"""What can be given to the study: the names of params.yaml and of notebooks, and what their values can be."""
