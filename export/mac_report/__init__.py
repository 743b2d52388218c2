"""A report on this Mac, in one Markdown file: measurements that no other system can make."""
