#!/bin/sh
# Run a command with passwords from files: a variable NAME_FILE=/run/secrets/... becomes NAME with the file's content.
set -eu
secrets=${SECRETS:-/run/secrets}
for variable in $(env | sed -n "s#^\([A-Z0-9_]*\)_FILE=$secrets/.*#\1#p"); do
  eval "file=\$${variable}_FILE"
  if [ ! -s "$file" ] || [ ! -r "$file" ]; then
    echo "$file: missing, empty or not readable for user $(id -u); create it with docker/secrets.sh" >&2
    exit 2
  fi
  value=$(cat "$file")
  export "$variable=$value"
  unset "${variable}_FILE"
done
exec "$@"
