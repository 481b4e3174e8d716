"""Stored programs as ZIP files: what is in one, and how to change it."""

import json
import zipfile


def members(path):
    with zipfile.ZipFile(path) as archive:
        return {n.partition("/")[2]: archive.read(n) for n in archive.namelist()}


def rewrite(path, changes, compression=zipfile.ZIP_STORED):
    content = {**members(path), **changes}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in content.items():
            if data is not None:
                archive.writestr(f"net/{name}", data)


def edit(path, member, change):
    data = json.loads(members(path)[member])
    change(data)
    rewrite(path, {member: json.dumps(data)})
