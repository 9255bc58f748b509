"""What a run stores: files on disks and in object stores, row-aligned tables, the lock of an output."""
