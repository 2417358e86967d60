#!/bin/sh
# Install Debian's Chromium, its driver and fonts for all languages of the page, where they are missing and this machine lets it.
# Nothing is started here. Without them tests/browser skips with the reason.
set -u
missing=
for package in chromium chromium-driver fonts-noto-core; do
    dpkg -s "$package" >/dev/null 2>&1 || missing="$missing $package"
done
[ -n "$missing" ] || exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "not root, or no apt: the browser is used only if it is here"
    exit 0
fi
echo "installing$missing"
apt-get update -qq
# shellcheck disable=SC2086
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null ||
    echo "apt cannot install all of$missing"
exit 0
