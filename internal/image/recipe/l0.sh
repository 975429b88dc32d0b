# Makes L0 of a Debian-family base: tools, locale, user dev (1000:1000) with sudo, /workspace.
# Runs as root of the build container; /mnt is read-only and holds apt.conf.
set -eu
command -v apt-get >/dev/null || { echo "this base has no apt-get: terok builds on Debian and Ubuntu bases" >&2; exit 64; }
export DEBIAN_FRONTEND=noninteractive APT_CONFIG=/mnt/apt.conf
apt-get update -q
apt-get install -yq --no-install-recommends \
  ca-certificates curl git git-lfs jq less locales openssh-client procps ripgrep sudo tmux tzdata
rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin /var/log/apt /var/log/dpkg.log
git lfs uninstall --system >/dev/null   # its package turns it on for every repository; a task's says so itself

grep -qsxF 'en_US.UTF-8 UTF-8' /etc/locale.gen || echo 'en_US.UTF-8 UTF-8' >>/etc/locale.gen
locale-gen >/dev/null

# Somebody may hold uid or gid 1000 already (Ubuntu's "ubuntu"): that one becomes dev.
group=$(getent group 1000 | cut -d: -f1)
if [ -z "$group" ]; then groupadd --gid 1000 dev; elif [ "$group" != dev ]; then groupmod --new-name dev "$group"; fi
user=$(getent passwd 1000 | cut -d: -f1)
if [ -z "$user" ]; then
  useradd --uid 1000 --gid 1000 --create-home --shell /bin/bash dev
elif [ "$user" != dev ]; then
  usermod --login dev --gid 1000 --home /home/dev --move-home --shell /bin/bash "$user"
  for f in /etc/subuid /etc/subgid; do [ ! -e "$f" ] || sed -i "s/^$user:/dev:/" "$f"; done
fi
usermod --password '!' dev                       # sudo's PAM wants a shadow row
printf 'dev ALL=(ALL:ALL) NOPASSWD: ALL\n' >/etc/sudoers.d/dev
chmod 0440 /etc/sudoers.d/dev
visudo -cqf /etc/sudoers.d/dev

install -d -o dev -g dev -m 0755 /workspace
install -d -o dev -g dev -m 0700 /home/dev/.ssh
install -d -m 0755 /run/terok /opt/terok/agents

cat >/etc/tmux.conf <<'TMUX'
set -g prefix C-a
unbind C-b
bind C-a send-prefix
set -g mouse on
set -g history-limit 10000
set -g default-terminal "screen-256color"
set -g base-index 1
set -g status-interval 5
set -g status-style bg=colour22,fg=colour255
set -g status-left "terok (^a) "
TMUX
