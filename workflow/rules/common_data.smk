# Functions of the data stage: what was published about a data set, as the steps read it.


def archives_of(name):
    """The archives that a data set and those that it needs consist of."""
    return [file.path for part in (name, *cfg.data.sets[name].needs) for file in SETS[part].files if file.unpack]


def published_counts(name):
    """What the table says of a data set's samples and files, as the JSON that the layout check reads."""
    sources = {source.path: source for part in cfg.data.sets.values() for source in part.files}
    samples = {
        row.path: {"published": row.samples, "pinned": FILES[row.path].sha256 != "unknown"}
        for row in cfg.data.sets[name].annotations
    }
    files = {ARCHIVES[path].unpack.to: sources[path].unpack.files for path in archives_of(name) if path in sources}
    return json.dumps({"samples": samples, "files": files})


def published_audit(pair):
    """The arguments that hand over what was published about the original set of a pair."""
    numbers = [f"{attribute}={number}" for attribute, number in pair.published.items()]
    return ["--published", pair.original, *numbers] if numbers else []

# What cleaned annotations changed, beside those that they were made from. Nothing but the paper stage waits for it.
