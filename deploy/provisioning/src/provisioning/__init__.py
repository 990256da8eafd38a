"""What an operator makes once for a platform: database roles and schemas, broker users, bucket rules."""
