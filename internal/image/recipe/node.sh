# Makes the image in which agent bundles are installed: Node and npm, nothing else.
set -eu
command -v apt-get >/dev/null || { echo "this base has no apt-get: terok builds on Debian and Ubuntu bases" >&2; exit 64; }
export DEBIAN_FRONTEND=noninteractive APT_CONFIG=/mnt/apt.conf
apt-get update -q
apt-get install -yq --no-install-recommends ca-certificates nodejs npm
rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin
