"""The manifests a person starts from, and what is put beside them."""
