"""What people read: tables, Markdown and exports made from a run's records."""
