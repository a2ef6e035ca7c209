"""Export a session's corrected labels: one snapshot, one run, and a note of where they come from.

What is exported is the composite at one stroke number over one run, so that a
second export of the same pair is equal byte for byte::

    DST/
    ├── image.ome.zarr          a link to the image, as a small JSON (its source and fingerprint)
    ├── labels.ome.zarr         the composite; "not predicted" stays not predicted
    └── provenance.json         image, classes, stroke number, run, model, versions
"""
