#!/bin/sh
# Debian's Chromium for the browser tests, where it is missing; needs root to install.
set -eu
command -v chromium >/dev/null && exit 0
if ! command -v apt-get >/dev/null || [ "$(id -u)" -ne 0 ]; then
    echo "the browser tests need chromium: run 'apt-get install chromium' as root" >&2
    exit 1
fi
echo "installing Debian's chromium" >&2
export DEBIAN_FRONTEND=noninteractive
apt-get update -q >&2
apt-get install -y -q --no-install-recommends chromium >&2
