"""What people do: each act asks the law first and is in the audit log with its effect."""
