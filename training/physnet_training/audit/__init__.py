"""What is wrong or suspicious in data: validation, audit, inspection."""
