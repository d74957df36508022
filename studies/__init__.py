"""Studies: measurements that take hours or files of others, and whose results are committed."""
