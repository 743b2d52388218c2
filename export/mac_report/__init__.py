"""A report on this Mac, as Markdown and JSON: measurements that no other system can make."""
