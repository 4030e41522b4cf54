#!/usr/bin/env bash
# A real Apptainer on a plain Debian 12 machine, for the tests; as root. Run again, it does nothing.
#
# Debian 12 has no Apptainer and Debian's newest is linked against a newer C library: that one goes with its libraries
# under a prefix of its own, and the machine's own packages stay as they are. Where Apptainer is there already, it is
# the one that is used. It writes outside the clone, so it runs only where that was asked for (SAFE_LLAVA_CLUSTER=1, or CI).
set -euo pipefail
prefix=/opt/apptainer-libraries
helpers=(squashfs-tools uidmap patchelf squashfuse fuse2fs fuse-overlayfs mmdebstrap)
keyring=/usr/share/keyrings/debian-archive-keyring.gpg

fail() { printf 'error: %s\n  remedy: %s\n' "$1" "$2" >&2; exit 1; }
if ! command -v apptainer > /dev/null || { [ -d "$prefix" ] && [ ! -f "$prefix/complete" ]; }; then
    [ "$(id -u)" = 0 ] || fail "Apptainer is not installed" "run this as root, in a throw-away machine"
    [ -n "${SAFE_LLAVA_CLUSTER:-}${CI:-}" ] || fail "Apptainer is not installed" "SAFE_LLAVA_CLUSTER=1 lets this script install it"
    grep -q '^VERSION_CODENAME=bookworm' /etc/os-release || fail "this machine is not Debian 12" "install Apptainer as its makers say"
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    apt-get -qq update
    DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "${helpers[@]}" > /dev/null

    # Where the machine's own packages come from, the newer ones come from too.
    mirror=$(apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' |
        awk '$2 == "bookworm" && $3 == "main" { print $1; exit }')
    [ -n "$mirror" ] || fail "no source of Debian 12's packages is known to apt" "name one in /etc/apt/sources.list.d"
    mkdir -p "$work/lists/partial" "$work/cache/archives/partial" "$work/packages"
    chmod -R a+rX "$work"
    for release in sid trixie; do echo "deb [signed-by=$keyring] $mirror $release main"; done > "$work/sources.list"
    apt=(apt-get -qq -o "Dir::Etc::SourceList=$work/sources.list" -o Dir::Etc::SourceParts=- -o "Dir::State::Lists=$work/lists"
        -o "Dir::Cache=$work/cache" -o APT::Sandbox::User=root -o Acquire::Languages=none)
    "${apt[@]}" update
    (cd "$work/packages" && "${apt[@]}" download apptainer/sid containernetworking-plugins/trixie)
    (cd "$work/cache" && "${apt[@]}" download libc6/trixie libseccomp2/trixie libsqlite3-0/trixie)
    mkdir -p "$prefix"
    for package in "$work"/cache/*.deb; do dpkg -x "$package" "$prefix"; done
    for package in "$work"/packages/*.deb; do dpkg -x "$package" /; done
    libraries=$prefix/usr/lib/x86_64-linux-gnu
    for program in /usr/bin/apptainer /usr/lib/x86_64-linux-gnu/apptainer/bin/starter; do
        patchelf --set-interpreter "$libraries/ld-linux-x86-64.so.2" "$program"
        # A plain runpath does not reach what the libraries themselves need.
        patchelf --force-rpath --set-rpath "$libraries" "$program"
    done
    # Asked for every capability, `apptainer exec` fails as a root that lacks one.
    apptainer config global --set "root default capabilities" no
    touch "$prefix/complete"
fi
apptainer --version
