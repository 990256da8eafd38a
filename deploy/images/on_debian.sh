#!/bin/sh
# Run a command with a container engine and a base image of our own making: no registry is needed.
# The base is the Debian of the official image that Dockerfile names, with the same Python.
#   deploy/images/on_debian.sh pytest tests/deploy/test_images.py tests/deploy/test_compose_up.py
# Needs Debian, root, and the packages docker.io and debootstrap.
# Starts an engine of its own beside any other, on a socket in a temporary directory, and stops it at the end.
set -eu

for program in dockerd docker debootstrap; do
    command -v "$program" >/dev/null || {
        echo "$program is missing: apt-get install --no-install-recommends docker.io debootstrap" >&2
        exit 1
    }
done
[ "$(id -u)" -eq 0 ] || { echo "an engine needs root" >&2; exit 1; }

work=$(mktemp -d)
dockerd --host "unix://$work/engine.sock" --data-root "$work/data" --exec-root "$work/run" --pidfile "$work/pid" \
    --iptables=false --bridge=none >"$work/engine.log" 2>&1 &
engine=$!
cleanup() {
    kill "$engine" 2>/dev/null || true
    wait "$engine" 2>/dev/null || true
    # A container on the network of this machine leaves a mount behind.
    umount "$work"/run/netns/* 2>/dev/null || true
    rm -rf "$work"
}
trap cleanup EXIT INT TERM
export DOCKER_HOST="unix://$work/engine.sock"
tries=0
until docker version >/dev/null 2>&1; do
    tries=$((tries + 1))
    [ "$tries" -lt 60 ] || { tail -n 20 "$work/engine.log" >&2; exit 1; }
    sleep 0.5
done

suite=$(sed -n 's/^ARG PYTHON_IMAGE=.*-slim-//p' "$(dirname "$0")/Dockerfile")
# Not every Debian has both kinds of list; awk would stop at one that is missing.
mirror=$(cat /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null |
    awk '$1 == "URIs:" { print $2; exit } $1 == "deb" { print $2; exit }')
echo "making a base image of Debian $suite"
debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates "$suite" "$work/root" "$mirror" \
    >"$work/debootstrap.log" 2>&1 || { tail -n 20 "$work/debootstrap.log" >&2; exit 1; }
# What this machine trusts, the build trusts: some networks sign again what passes through them.
cp /etc/ssl/certs/ca-certificates.crt "$work/root/etc/ssl/certs/ca-certificates.crt"
rm -rf "$work/root/var/cache/apt" "$work/root/var/lib/apt/lists"
tar -C "$work/root" -c . | docker import - reelhouse-base:local >/dev/null
rm -rf "$work/root"

REELHOUSE_BASE_IMAGE=reelhouse-base:local "$@"
