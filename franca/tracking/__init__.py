"""MLflow tracking: runs, lineage, the model registry, gates and the model's MLflow flavor.

MLflow mirrors the project's files and is never their source. No module here imports MLflow at import time: the import
takes two seconds, and training works without MLflow.
"""
