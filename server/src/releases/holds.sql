-- The version whose bundle an appliance has whole, for other homes too; NULL: none.
ALTER TABLE appliances ADD COLUMN holds TEXT;
