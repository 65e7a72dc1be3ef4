"""Source → document → chunks → nodes: decides what changed, and hands complete revisions to the protocol."""
