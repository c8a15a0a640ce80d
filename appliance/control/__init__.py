"""The control plane: rounds, approvals, the API and the command line.

Imports core and policies alone; every other program is started by command or asked over HTTP.
"""
