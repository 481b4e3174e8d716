#!/usr/bin/env bash
# An arm64 board without a board: a Debian root for aarch64, run by qemu-user, with an SSH server of
# its own on loopback. `make arm64` runs the tests on it:
#
#     tests/arm64/board.sh FOLDER PYTHON COMMAND...
#
# makes the root in FOLDER where it is not there yet (debootstrap; NumPy and ONNX Runtime as the
# aarch64 wheels of PyPI), starts its server, and runs COMMAND with EDGEKIT_ARM64_URL and
# EDGEKIT_ARM64_SSH_CONFIG set. PYTHON is the one whose pip fetches the wheels. Needs root, for
# chroot. Exit code 3: something is missing here, and the message says what.
#
# Packages are unpacked, not configured: their maintainer scripts would take most of the time, and
# all that is needed of a system here is its files. Mounts and processes live in namespaces of their
# own, so that none of them outlives the command.
set -euo pipefail

SUITE=bookworm PYTHON_VERSION=3.11 # the suite's own Python
MIRROR=${DEBIAN_MIRROR:-http://deb.debian.org/debian}
PACKAGES=openssh-server,python3,libstdc++6
VENV=/root/edgekit-venv

refuse() {
    echo "make arm64: $1" >&2
    exit 3
}

check_machine() {
    [ "$(uname -s)" = Linux ] || refuse "this needs Linux."
    [ "$(uname -m)" != aarch64 ] ||
        refuse "this machine is arm64 itself: edgekit device add here local://"
    [ "$(id -u)" = 0 ] || refuse "chroot needs root: sudo make arm64"
    local tool missing=()
    for tool in debootstrap:debootstrap qemu-aarch64-static:qemu-user-static \
        ssh-keygen:openssh-client unshare:util-linux; do
        command -v "${tool%%:*}" >/dev/null || missing+=("${tool##*:}")
    done
    [ ${#missing[@]} = 0 ] || refuse "this needs: apt-get install ${missing[*]}"
}

make_root() {
    local root=$1 python=$2 part=$1.part deb place
    rm -rf --one-file-system "$part"
    mkdir -p "$part"
    echo "make arm64: fetching Debian $SUITE for arm64" >&2
    debootstrap --foreign --arch=arm64 --variant=minbase --include=$PACKAGES \
        $SUITE "$part" "$MIRROR" >"$root.log" 2>&1 ||
        refuse "debootstrap failed: $(tail -n 1 "$root.log") ($root.log has the rest)"
    for deb in "$part"/var/cache/apt/archives/*.deb; do
        dpkg-deb --fsys-tarfile "$deb" | tar -x --keep-directory-symlink -C "$part"
        rm "$deb"
    done
    rm -r "$part/debootstrap"
    for place in proc sys dev; do # in a container, debootstrap makes links of them
        [ ! -L "$part/$place" ] || rm "$part/$place"
        mkdir -p "$part/$place"
    done
    cp "$part"/usr/share/base-passwd/passwd.master "$part/etc/passwd"
    cp "$part"/usr/share/base-passwd/group.master "$part/etc/group"
    echo "sshd:x:100:65534::/run/sshd:/usr/sbin/nologin" >>"$part/etc/passwd"
    echo "127.0.0.1 localhost" >"$part/etc/hosts"
    mkdir -p "$part/run/sshd" "$part$VENV/lib/python$PYTHON_VERSION/site-packages"
    # A virtual environment is a link to the interpreter and a file that says where that is.
    mkdir -p "$part$VENV/bin"
    ln -s /usr/bin/python3 "$part$VENV/bin/python"
    printf 'home = /usr/bin\ninclude-system-site-packages = false\n' >"$part$VENV/pyvenv.cfg"
    echo "make arm64: fetching NumPy and ONNX Runtime for aarch64" >&2
    local platforms=() glibc
    for glibc in manylinux_2_28 manylinux_2_27 manylinux_2_17 manylinux2014; do
        platforms+=(--platform "${glibc}_aarch64")
    done
    "$python" -m pip install -q --no-compile --only-binary=:all: "${platforms[@]}" \
        --implementation cp --python-version $PYTHON_VERSION -c constraints.txt \
        --target "$part$VENV/lib/python$PYTHON_VERSION/site-packages" numpy onnxruntime
    mv "$part" "$root"
}

make_keys() {
    local folder=$1 port=$2 name
    for name in id host_key; do
        [ -f "$folder/$name" ] || ssh-keygen -q -t ed25519 -N "" -C arm64 -f "$folder/$name"
    done
    mkdir -p -m 700 "$folder/root/root/.ssh"
    cp "$folder/id.pub" "$folder/root/root/.ssh/authorized_keys"
    install -m 600 "$folder/host_key" "$folder/root/etc/ssh/host_key"
    cat >"$folder/root/etc/ssh/edgekit_config" <<END
ListenAddress 127.0.0.1:$port
HostKey /etc/ssh/host_key
UsePAM no
PermitRootLogin yes
PasswordAuthentication no
KbdInteractiveAuthentication no
StrictModes no
END
    echo "[127.0.0.1]:$port $(cat "$folder/host_key.pub")" >"$folder/known_hosts"
    cat >"$folder/ssh_config" <<END
Host *
  UserKnownHostsFile $folder/known_hosts
  GlobalKnownHostsFile /dev/null
  IdentityFile $folder/id
  IdentitiesOnly yes
  IdentityAgent none
END
}

# Let the kernel start aarch64 programs by qemu. The rules are the whole machine's, wherever they are
# mounted: one that was made here is taken away again.
teach_kernel() {
    local rules=$1
    mkdir -p "$rules"
    mount -t binfmt_misc binfmt_misc "$rules" 2>/dev/null ||
        refuse "the kernel has no binfmt_misc, or it cannot be mounted here."
    if [ -e "$rules/qemu-aarch64" ]; then
        grep -q '^flags:.*F' "$rules/qemu-aarch64" ||
            refuse "the rule qemu-aarch64 lacks the flag F: apt-get install --reinstall qemu-user-static"
        return
    fi
    local magic='\x7f\x45\x4c\x46\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00'
    local mask='\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff'
    # F: qemu is opened now, so that chroot does not hide it.
    echo ":qemu-aarch64:M::$magic:$mask:$(command -v qemu-aarch64-static):F" >"$rules/register" ||
        refuse "the kernel takes no rule for aarch64 programs."
    # shellcheck disable=SC2064 # the path of now
    trap "echo -1 >'$rules/qemu-aarch64'" EXIT
}

# qemu before 8.1 shows a program the host's /proc/cpuinfo, and ONNX Runtime's aarch64 code crashes
# on an x86 one. This is what later ones show.
write_cpuinfo() {
    local number
    for ((number = 0; number < $(getconf _NPROCESSORS_ONLN); number++)); do
        printf '%s\t: %s\n' processor $number BogoMIPS 100.00 \
            Features "fp asimd evtstrm aes pmull sha1 sha2 crc32 cpuid" \
            "CPU implementer" 0x41 "CPU architecture" 8 "CPU variant" 0x0 "CPU part" 0xd08 \
            "CPU revision" 3
        echo
    done
}

inside() {
    local folder=$1 port=$2 root=$1/root server waited=0
    shift 2
    teach_kernel "$folder/binfmt"
    mount -t proc proc "$root/proc"
    mount -t sysfs -o ro sysfs "$root/sys"
    mount --rbind /dev "$root/dev"
    write_cpuinfo >"$folder/cpuinfo"
    mount --bind "$folder/cpuinfo" "$root/proc/cpuinfo"
    chroot "$root" /usr/sbin/sshd -D -e -f /etc/ssh/edgekit_config 2>"$folder/sshd.log" &
    server=$!
    until (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do
        kill -0 $server 2>/dev/null && [ $((waited += 1)) -lt 300 ] ||
            refuse "the board's sshd does not start: $(tail -n 1 "$folder/sshd.log")"
        sleep 0.2
    done
    EDGEKIT_ARM64_URL=ssh://root@127.0.0.1:$port EDGEKIT_ARM64_SSH_CONFIG=$folder/ssh_config "$@"
}

if [ "$1" = --inside ]; then
    shift
    inside "$@"
    exit
fi

folder=$1 python=$2
shift 2
check_machine
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
[ -d "$folder/root" ] || make_root "$folder/root" "$python"
port=$("$python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
make_keys "$folder" "$port"
exec unshare --mount --propagation private --pid --fork --kill-child --mount-proc \
    bash "$0" --inside "$folder" "$port" "$@"
