"""MLflow as a mirror of the project's files: runs, lineage, the model's flavor, registry and gates.

No module here imports MLflow when it is itself imported: that costs two seconds, and a trainer need not have it.
"""
