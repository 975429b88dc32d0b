# Installs one npm package into /out; runs as root of a container that has no capability.
# $1 is the package, $2 its version or "latest", $3 what hangs behind the version of a package that
# publishes each machine's program as a version of its own. Scripts of packages never run.
set -eu
if [ -s /mnt/ca.pem ]; then export NODE_EXTRA_CA_CERTS=/mnt/ca.pem; fi
export npm_config_cache=/tmp/npm npm_config_update_notifier=false npm_config_fund=false npm_config_audit=false
export npm_config_progress=false npm_config_userconfig=/dev/null npm_config_engine_strict=false HOME=/tmp
cd /out
version=$2
if [ "$version" = latest ] && [ -n "$3" ]; then
  version=$(npm view "$1@latest" version)
fi
npm install --ignore-scripts --omit=dev --save-exact --prefix /out -- "$1@$version$3"
