#!/bin/sh
# Inside a clean Debian root: install, use, upgrade, remove and purge the packages in /debs, and list whatever stays behind.
# Called by tests/deploy/test_deb.py; prints one line per step, and ends with "clean" when purge left nothing.
set -eu
export DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8 PATH=/usr/sbin:/usr/bin:/sbin:/bin

everything() {
    find / -xdev \( -path /debs -o -path /trial -o -path /proc -o -path /sys -o -path /dev -o -path /tmp -o -path /run \) -prune -o -print |
        grep -vE '^/var/(log|cache|lib/dpkg|lib/apt)/' | grep -v __pycache__ | sort
}

everything >/tmp/before
dpkg -i /debs/old/*.deb >/tmp/log 2>&1 || { cat /tmp/log; exit 1; }
echo "installed $(dpkg-query -W -f '${Version}' distillnet)"
echo "installed bytes $(du -sb /usr/lib/distillnet | cut -f1)"
distillnet --version
distillnet doctor
distillnet run --help >/dev/null
distillnet bench verify /trial/student.tflite --inputs 3
distillnet replay /trial/pictures --student /trial/student.tflite --json
echo "# mine" >>/etc/distillnet/device.toml
mkdir -p /var/lib/distillnet && touch /var/lib/distillnet/outbox
dpkg -i /debs/new/*.deb >/tmp/log 2>&1 || { cat /tmp/log; exit 1; }
echo "upgraded to $(dpkg-query -W -f '${Version}' distillnet)"
tail -n 1 /etc/distillnet/device.toml | grep -q "# mine" && echo "kept the edited device file"
[ -e /var/lib/distillnet/outbox ] && echo "kept the state"
distillnet --version
dpkg -r distillnet distillnet-libs >/tmp/log 2>&1 || { cat /tmp/log; exit 1; }
[ -e /etc/distillnet/device.toml ] && echo "removed, device file kept"
dpkg -P distillnet distillnet-libs >/tmp/log 2>&1 || { cat /tmp/log; exit 1; }
everything >/tmp/after
diff /tmp/before /tmp/after && echo clean
