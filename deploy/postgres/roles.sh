#!/bin/sh
# Run once by the image, after initdb. The statements carry passwords, so they come from the secrets' volume, not from git.
set -eu
psql --no-psqlrc --quiet --set=ON_ERROR_STOP=1 --username=postgres --dbname=postgres --file=/run/billing/roles.sql
