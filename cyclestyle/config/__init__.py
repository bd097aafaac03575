"""Every option of a run: declared in `schema` and `methods`, read and checked in `loading`, rules in `rules`."""
