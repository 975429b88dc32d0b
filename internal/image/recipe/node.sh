# Makes the image in which agent bundles are installed: Node and npm on a Debian-family base.
#
# Debian's npm is some 380 tiny packages, and dpkg spends over a minute on their scripts and its
# database. This image is never upgraded and needs neither, so the archives (whose signatures and
# hashes apt has checked) are only unpacked, which takes seconds.
set -eu
command -v apt-get >/dev/null || { echo "this base has no apt-get: terok builds on Debian and Ubuntu bases" >&2; exit 64; }
export DEBIAN_FRONTEND=noninteractive APT_CONFIG=/mnt/apt.conf
apt-get update -q
apt-get install -yq --download-only --no-install-recommends ca-certificates nodejs npm
cd /var/cache/apt/archives
for deb in *.deb; do
  # Headers and Python serve native modules, whose scripts never run here.
  case $deb in *-dev_* | python3* | libpython3*) continue ;; esac
  # What the base has in an older version stays: it is in use while we unpack.
  dpkg-query -Wf '${db:Status-Abbrev}' "${deb%%_*}" 2>/dev/null | grep -q '^ii' || echo "$deb"
done | xargs -P 4 -n 16 sh -euc '
  for deb; do dpkg-deb --fsys-tarfile "$deb" | tar -xf - -C / --keep-directory-symlink --no-same-owner \
    --exclude="./usr/share/doc/*" --exclude="./usr/share/man/*" --exclude="*.d.ts" --exclude="*.map"; done' unpack
ldconfig
[ -s /etc/ssl/certs/ca-certificates.crt ] || update-ca-certificates --fresh
rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin /var/cache/apt/archives/*.deb
node --version
npm --version
