#!/usr/bin/env bash
# Create the passwords of docker/compose.yaml, one a file, outside the checkout: the worker mounts that. Keep those that
# exist. Containers have other user IDs, so the files are readable for all; the folder is closed to others.
set -euo pipefail
folder=${FRANCA_SECRETS:-$HOME/.config/franca/secrets}
mkdir -p "$folder"
chmod 700 "$folder"
umask 022

create() {
  if [ ! -s "$folder/$1" ]; then
    printf '%s%s\n' "${2:-}" "$(od -An -N24 -tx1 /dev/urandom | tr -d ' \n')" > "$folder/$1"
    echo "created $folder/$1"
  fi
}

create postgres_password
create s3_password
create mlflow_password
create mlflow_secret_key
create prefect_login franca:
