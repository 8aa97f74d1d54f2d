"""Tables and folders of pairs: manifests, public collections, checks, and preprocessing to one grid."""
