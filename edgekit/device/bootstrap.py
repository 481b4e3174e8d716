"""The few lines that the host runs on a device by `python -c`: they fetch the agent and become it.

They are written so that any Python from 2.7 on can read them: one that is too old for the agent
says so in words, not with a syntax error.
"""

import base64

PROGRAM = """\
import sys
sys.path[:] = [p for p in sys.path if p]
import errno, hashlib, json, os
out = getattr(sys.stdout, "buffer", sys.stdout)
def say(line):
    out.write((json.dumps(line, sort_keys=True) + "\\n").encode("ascii"))
    out.flush()
def fail(kind, message, hint):
    say({"type": "error", "kind": kind, "message": message, "hint": hint})
    sys.exit(3)
def read(size):
    # Straight from the descriptor: what comes after belongs to the agent.
    data = b""
    while len(data) < size:
        part = os.read(0, min(65536, size - len(data)))
        if not part:
            sys.exit(4)
        data += part
    return data
version = ".".join(str(part) for part in sys.version_info[:3])
if sys.version_info < (3, 10):
    fail("unavailable",
         "The device's Python at %s is %s, and edgekit needs 3.10 or newer."
         % (sys.executable, version),
         "Install a newer Python on the device, and name it with --python.")
line = b""
while not line.endswith(b"\\n"):
    if len(line) > 100:
        fail("protocol", "The host sent no agent.", "Use the same version of edgekit.")
    line += read(1)
words = line.decode("ascii", "replace").split()
if (len(words) != 2 or len(words[0]) != 64 or set(words[0]) - set("0123456789abcdef")
        or not words[1].isdigit() or int(words[1]) > 1 << 26):
    fail("protocol", "The host sent no agent.", "Use the same version of edgekit.")
sha, size = words[0], int(words[1])
base = os.environ.get("XDG_CACHE_HOME", "")
if not os.path.isabs(base):
    base = os.path.join(os.path.expanduser("~"), ".cache")
folder = os.path.join(base, "edgekit")
path = os.path.join(folder, "agent-%s.pyz" % sha[:16])
try:
    with open(path, "rb") as file:
        cached = hashlib.sha256(file.read()).hexdigest() == sha
    os.utime(path)
except OSError:
    cached = False
say({"type": "agent", "cached": cached, "python": version})
if not cached:
    data = read(size)
    if hashlib.sha256(data).hexdigest() != sha:
        fail("protocol", "The agent arrived damaged.", "Try again.")
    part = "%s.part-%d" % (path, os.getpid())
    try:
        os.makedirs(folder, 0o700, exist_ok=True)
        try:
            with open(part, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, path)
        except BaseException:
            if os.path.exists(part):
                os.unlink(part)
            raise
    except OSError as e:
        if e.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            what = "The device's disk is full: %s has no room for the agent." % folder
        else:
            what = "The device cannot write to %s: %s." % (folder, e.strerror)
        fail("disk", what, "Set XDG_CACHE_HOME on the device to a folder that can be written to.")
os.execv(sys.executable, [sys.executable, path])
"""


def bootstrap() -> str:
    """Return the program as one line for `python -c`.

    It holds letters, digits, `+/=`, `;`, `.`, spaces, parentheses and double quotes, so that single
    quotes protect it in every shell.

    Talks so: reads a line `SHA256 SIZE` from stdin; answers with a line of JSON,
    `{"type": "agent", "cached": true or false, "python": "3.11.7"}`; where it is not cached, reads
    SIZE bytes; then the agent takes its place. What goes wrong is a line
    `{"type": "error", "kind": ..., "message": ..., "hint": ...}` and exit code 3.
    """
    packed = base64.b64encode(PROGRAM.encode("ascii")).decode("ascii")
    return f'import base64; exec(base64.b64decode("{packed}").decode("ascii"))'
