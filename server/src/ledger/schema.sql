-- The ledger (F14): double entry. Amounts are minor units of the account's currency; the lines of an entry add up to 0,
-- and so do all balances. Nothing here is ever changed but balances, which are the sums of their lines.

CREATE TABLE ledger_accounts (
    id TEXT PRIMARY KEY,              -- cust_…/available, cust_…/held, operator/cash, operator/fees
    customer TEXT REFERENCES customers (id), -- NULL: the operator's
    role TEXT NOT NULL,               -- available, held, cash, fees
    currency TEXT NOT NULL,           -- ISO 4217
    balance_minor BIGINT NOT NULL,
    -- Cash is what customers paid in, seen from their side: it is the one that may be (and is) negative.
    CHECK (role = 'cash' OR balance_minor >= 0)
);
CREATE INDEX ledger_accounts_customer ON ledger_accounts (customer);

CREATE TABLE ledger_entries (
    id TEXT PRIMARY KEY,              -- ent_…
    idempotency_key TEXT NOT NULL UNIQUE, -- hold:ord_…, close:ord_… (capture or release: one of them, once), credit:…
    kind TEXT NOT NULL,               -- credit, hold, capture, release
    order_id TEXT,                    -- ord_…
    grants TEXT NOT NULL,             -- JSON list: under which grants it was delivered (F67)
    receipts TEXT NOT NULL,           -- JSON list: BLAKE3 of the receipts (F67)
    at_ms BIGINT NOT NULL
);
CREATE INDEX ledger_entries_at ON ledger_entries (at_ms);
CREATE INDEX ledger_entries_order ON ledger_entries (order_id);

CREATE TABLE ledger_lines (
    entry TEXT NOT NULL REFERENCES ledger_entries (id),
    position BIGINT NOT NULL,
    account TEXT NOT NULL REFERENCES ledger_accounts (id),
    amount_minor BIGINT NOT NULL,
    text TEXT NOT NULL,               -- what for, in the words of this account's owner
    PRIMARY KEY (entry, position)
);
CREATE INDEX ledger_lines_account ON ledger_lines (account);
