"""What a folder lies on: a disk of this machine, or of another one."""

from __future__ import annotations

from pathlib import Path

_NETWORK = {
    *("9p", "acfs", "afpfs", "afs", "beegfs", "ceph", "cifs", "davfs", "gfs2", "glusterfs", "gpfs"),
    *("juicefs", "lustre", "ncpfs", "nfs", "nfs4", "ocfs2", "orangefs", "panfs", "pvfs2", "smb2"),
    *("smb3", "smbfs", "sshfs", "vboxsf", "vmhgfs", "webdav", "wekafs"),
}
"""File systems whose files other machines may change, by the names of Linux and macOS."""
_OF_FUSE = {"ceph-fuse", "gcsfuse", "goofys", "mount.davfs", "rclone", "s3fs", "vmhgfs-fuse"}
"""The same, behind `fuse.`; `fuse.sshfs` is in both forms."""


def network_filesystem(folder: Path) -> str:
    """Return the kind of network file system that a folder lies on, or an empty string."""
    import psutil

    place, found = folder.resolve(), ("", "")
    for partition in psutil.disk_partitions(all=True):
        inside = place.is_relative_to(partition.mountpoint)
        # Of two mounts at one place the later one is seen.
        if inside and len(partition.mountpoint) >= len(found[0]):
            found = partition.mountpoint, partition.fstype
    kind = found[1].lower()
    inner = kind.partition(".")[2]
    return kind if kind in _NETWORK or inner in _NETWORK | _OF_FUSE else ""


def network_warning(folder: Path) -> str:
    """Return what to say of a study with its own database in `folder`, or an empty string."""
    kind = network_filesystem(folder)
    if not kind:
        return ""
    return (
        f"{folder} is on a network file system ({kind}), where SQLite is slow and can be damaged if"
        " two machines use it: give --runs a local disk, or set storage: postgresql://..."
    )
