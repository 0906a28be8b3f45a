#!/bin/sh
# Fetches what $SOURCE names and packs it.
set -e
cd /out
curl -sSf -o page "$SOURCE"
tar -c -z -f page.tar.gz page
rm page
