#!/bin/sh
# Install the schedulers, stores and catalogs that tests/cluster starts, as far as this machine lets it: SLURM, munge, sshd and
# PostgreSQL by apt, azurite by npm, and servers in Python into .venv-servers. Nothing is started here. What cannot be
# installed is said, and its tests skip with the reason.
set -u
cd "$(dirname "$0")/.."

apt_packages() {
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        echo "not root, or no apt: SLURM, sshd and PostgreSQL are used only if they are here"
        return
    fi
    wanted="slurmctld slurmd slurm-client munge openssh-server postgresql npm"
    ls /usr/share/postgresql/*/extension/postgis.control >/dev/null 2>&1 || wanted="$wanted postgis"
    missing=
    for package in $wanted; do
        case $package in
        npm) command -v npm >/dev/null || missing="$missing npm" ;;
        postgis) missing="$missing postgis" ;;
        *) dpkg -s "$package" >/dev/null 2>&1 || missing="$missing $package" ;;
        esac
    done
    [ -n "$missing" ] || return
    echo "installing$missing"
    # Packages of daemons would start them, and an sshd listens everywhere.
    if [ ! -e /usr/sbin/policy-rc.d ]; then
        printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
        chmod 755 /usr/sbin/policy-rc.d
        trap 'rm -f /usr/sbin/policy-rc.d' EXIT
    fi
    apt-get update -qq
    case $missing in *postgis*)
        spatial=$(apt-cache search --names-only '^postgresql-[0-9]+-postgis-3$' | sort -V | tail -n 1 | cut -d' ' -f1)
        missing=$(echo "$missing" | sed "s/ postgis/ $spatial/") ;;
    esac
    # shellcheck disable=SC2086
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null ||
        echo "apt cannot install all of$missing"
}

servers() {
    stamp=.venv-servers/.installed
    want=$(cksum <tests/cluster/servers.txt)
    if [ "$(cat "$stamp" 2>/dev/null)" != "$want" ]; then
        echo "setting up .venv-servers (a minute, once)"
        uv=.venv/bin/uv
        [ -x "$uv" ] || uv=uv
        rm -rf .venv-servers
        "$uv" venv --quiet --python .venv/bin/python .venv-servers &&
            "$uv" pip install --quiet --python .venv-servers/bin/python --no-deps -r tests/cluster/servers.txt &&
            echo "$want" >"$stamp" || echo "servers of tests/cluster/servers.txt cannot be installed"
    fi
    if [ ! -x .venv-servers/node_modules/.bin/azurite-blob ]; then
        if command -v npm >/dev/null; then
            # Of an install that was cut off npm leaves a list that it takes for the packages.
            rm -rf .venv-servers/node_modules .venv-servers/package.json .venv-servers/package-lock.json
            npm install --silent --no-fund --no-audit --prefix .venv-servers azurite@3.37 || echo "npm cannot install azurite"
        else
            echo "no npm: no azurite"
        fi
    fi
}

apt_packages
servers
exit 0
