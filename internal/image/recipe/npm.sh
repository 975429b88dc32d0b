# Installs one npm package into /out; runs as root of a container that has no capability.
# $1 is package@version. Scripts of packages never run.
set -eu
if [ -s /mnt/ca.pem ]; then export NODE_EXTRA_CA_CERTS=/mnt/ca.pem; fi
export npm_config_cache=/tmp/npm npm_config_update_notifier=false npm_config_fund=false npm_config_audit=false
export npm_config_progress=false npm_config_userconfig=/dev/null HOME=/tmp
cd /out
npm install --ignore-scripts --omit=dev --save-exact --prefix /out -- "$1"
