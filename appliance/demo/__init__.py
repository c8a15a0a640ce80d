"""A company in a box: it uses the appliance as its users do, over HTTP and by command.

Imports no room of ours and has no private way in. What it says in its last line was counted by the
agents, or printed by the `espalier` command.
"""
