"""What people see: pure reads. The API answers, and the console shows, exactly these."""
