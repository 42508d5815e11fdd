"""The invariants of a tenant's books that SQL can check by itself (DOMAIN rule 15).

Each statement returns the rows that break one: (subject, found). `found` says by how much things are off or which
states disagree, never an amount of a patient.
Every statement names its tenant, so it answers the same for a role that row-level security does not bind.
"""

from typing import NamedTuple


class Check(NamedTuple):
    """`rule` is what has to hold; `sql` selects the rows for which it does not, of the tenant `:tenant`."""

    name: str
    rule: str
    sql: str


_LEDGER = (
    Check(
        "running_balance",
        "running totals = sum of the account's transfers",
        """
        WITH posted AS (
            SELECT id, sum(debits) AS debits, sum(credits) AS credits
            FROM (SELECT debit_account_id AS id, amount_minor AS debits, 0 AS credits
                  FROM ledger_transfer WHERE tenant_id = :tenant
                  UNION ALL
                  SELECT credit_account_id, 0, amount_minor FROM ledger_transfer WHERE tenant_id = :tenant) AS sides
            GROUP BY id),
        running AS (SELECT id, debits_minor, credits_minor FROM ledger_account WHERE tenant_id = :tenant)
        SELECT id AS subject,
               format('debits off by %s, credits off by %s', coalesce(debits_minor, 0) - coalesce(debits, 0),
                      coalesce(credits_minor, 0) - coalesce(credits, 0)) AS found
        FROM running FULL JOIN posted USING (id)
        WHERE coalesce(debits_minor, 0) <> coalesce(debits, 0) OR coalesce(credits_minor, 0) <> coalesce(credits, 0)
        """,
    ),
    Check(
        "debits_equal_credits",
        "debits = credits",
        """
        SELECT currency AS subject, format('off by %s', sum(debits_minor) - sum(credits_minor)) AS found
        FROM ledger_account WHERE tenant_id = :tenant
        GROUP BY currency HAVING sum(debits_minor) <> sum(credits_minor)
        """,
    ),
    Check(
        "transfer_currency",
        "both accounts of a transfer have its currency",
        """
        SELECT t.sequence AS subject, format('%s, %s, %s', t.currency, d.currency, c.currency) AS found
        FROM ledger_transfer t
        LEFT JOIN ledger_account d ON d.tenant_id = t.tenant_id AND d.id = t.debit_account_id
        LEFT JOIN ledger_account c ON c.tenant_id = t.tenant_id AND c.id = t.credit_account_id
        WHERE t.tenant_id = :tenant AND (t.currency = d.currency AND t.currency = c.currency) IS NOT TRUE
        """,
    ),
    Check(
        "receivable",
        "receivable (1100) of an account and party = what is open on its issued invoices",
        """
        WITH ledger AS (
            SELECT account_id, party_id, currency, sum(debits_minor - credits_minor) AS minor
            FROM ledger_account WHERE tenant_id = :tenant AND code = '1100'
            GROUP BY account_id, party_id, currency),
        documents AS (
            SELECT account_id, party_id, currency,
                   sum(total_minor - paid_minor - credited_minor - written_off_minor) AS minor
            FROM invoice WHERE tenant_id = :tenant AND status IN ('issued', 'settled')
            GROUP BY account_id, party_id, currency)
        SELECT concat_ws('/', account_id, party_id, currency) AS subject,
               format('off by %s', coalesce(ledger.minor, 0) - coalesce(documents.minor, 0)) AS found
        FROM ledger FULL JOIN documents USING (account_id, party_id, currency)
        WHERE coalesce(ledger.minor, 0) <> coalesce(documents.minor, 0)
        """,
    ),
    Check(
        "unapplied_credit",
        "unapplied credit (2100) of an account = what its payments have left",
        """
        WITH ledger AS (
            SELECT account_id, currency, sum(credits_minor - debits_minor) AS minor
            FROM ledger_account WHERE tenant_id = :tenant AND code = '2100'
            GROUP BY account_id, currency),
        documents AS (
            SELECT account_id, currency,
                   sum(amount_minor + cash_rounding_minor - allocated_minor - refunded_minor - charged_back_minor) AS minor
            FROM payment WHERE tenant_id = :tenant AND status <> 'reversed'
            GROUP BY account_id, currency)
        SELECT concat_ws('/', account_id, currency) AS subject,
               format('off by %s', coalesce(ledger.minor, 0) - coalesce(documents.minor, 0)) AS found
        FROM ledger FULL JOIN documents USING (account_id, currency)
        WHERE coalesce(ledger.minor, 0) <> coalesce(documents.minor, 0)
        """,
    ),
)

_DOCUMENTS = (
    Check(
        "payment_allocations",
        "allocated_minor = sum of the payment's allocations",
        """
        WITH made AS (
            SELECT payment_id AS id, sum(amount_minor) AS minor
            FROM allocation WHERE tenant_id = :tenant GROUP BY payment_id),
        stated AS (SELECT id, allocated_minor AS minor FROM payment WHERE tenant_id = :tenant)
        SELECT id AS subject, format('off by %s', coalesce(stated.minor, 0) - coalesce(made.minor, 0)) AS found
        FROM stated FULL JOIN made USING (id) WHERE coalesce(stated.minor, 0) <> coalesce(made.minor, 0)
        """,
    ),
    Check(
        "invoice_allocations",
        "paid_minor = sum of the invoice's allocations",
        """
        WITH made AS (
            SELECT invoice_id AS id, sum(amount_minor) AS minor
            FROM allocation WHERE tenant_id = :tenant GROUP BY invoice_id),
        stated AS (SELECT id, paid_minor AS minor FROM invoice WHERE tenant_id = :tenant)
        SELECT id AS subject, format('off by %s', coalesce(stated.minor, 0) - coalesce(made.minor, 0)) AS found
        FROM stated FULL JOIN made USING (id) WHERE coalesce(stated.minor, 0) <> coalesce(made.minor, 0)
        """,
    ),
    Check(
        "payment_refunds",
        "refunded_minor = sum of the payment's refunds",
        """
        WITH made AS (
            SELECT payment_id AS id, sum(amount_minor) AS minor
            FROM refund WHERE tenant_id = :tenant GROUP BY payment_id),
        stated AS (SELECT id, refunded_minor AS minor FROM payment WHERE tenant_id = :tenant)
        SELECT id AS subject, format('off by %s', coalesce(stated.minor, 0) - coalesce(made.minor, 0)) AS found
        FROM stated FULL JOIN made USING (id) WHERE coalesce(stated.minor, 0) <> coalesce(made.minor, 0)
        """,
    ),
    Check(
        "gateway_payments",
        "a captured hold has its payment, of what was captured, and a payment through a gateway its hold",
        """
        WITH held AS (SELECT id, status, currency, captured_minor FROM hold WHERE tenant_id = :tenant),
        paid AS (SELECT id, currency, amount_minor FROM payment WHERE tenant_id = :tenant AND method = 'gateway')
        SELECT id AS subject,
               format('hold %s, %s, %s', coalesce(held.status, 'absent'),
                      CASE WHEN paid.currency IS NULL THEN 'no payment' ELSE 'a payment' END,
                      CASE WHEN amount_minor = captured_minor THEN 'equal' ELSE 'not equal' END) AS found
        FROM held FULL JOIN paid USING (id)
        WHERE (CASE WHEN held.status = 'captured' THEN paid.amount_minor = captured_minor AND paid.currency = held.currency
                    WHEN held.status = 'mismatch' THEN paid.currency IS NULL OR paid.currency = held.currency
                    ELSE paid.currency IS NULL AND held.status IS NOT NULL END) IS NOT TRUE
        """,
    ),
    Check(
        "gateway_refunds",
        "what is reserved for refunds = refunds under way at the gateway; those it made are in the books, and no others",
        """
        WITH asked AS (
            SELECT payment_id AS id, sum(amount_minor) AS minor FROM gateway_refund
            WHERE tenant_id = :tenant AND status IN ('pending', 'unknown') GROUP BY payment_id),
        stated AS (SELECT id, refunding_minor AS minor FROM payment WHERE tenant_id = :tenant)
        SELECT id AS subject, format('off by %s', coalesce(stated.minor, 0) - coalesce(asked.minor, 0)) AS found
        FROM stated FULL JOIN asked USING (id) WHERE coalesce(stated.minor, 0) <> coalesce(asked.minor, 0)
        UNION ALL
        SELECT coalesce(h.id, r.payment_id), format('hold off by %s', coalesce(h.refunded_minor, 0) - coalesce(r.minor, 0))
        FROM (SELECT id, refunded_minor FROM hold WHERE tenant_id = :tenant AND refunded_minor > 0) AS h
        FULL JOIN (SELECT payment_id, sum(amount_minor) AS minor FROM refund
                   WHERE tenant_id = :tenant AND method = 'gateway' GROUP BY payment_id) AS r ON r.payment_id = h.id
        WHERE h.refunded_minor IS DISTINCT FROM r.minor
        UNION ALL
        SELECT g.id, 'done, not in the books'
        FROM gateway_refund g LEFT JOIN refund r ON r.tenant_id = g.tenant_id AND r.id = g.id
        WHERE g.tenant_id = :tenant AND g.status = 'done' AND r.amount_minor IS DISTINCT FROM g.amount_minor
        """,
    ),
    Check(
        "credit_note_lines",
        "net and tax of a credit note = sum of its lines",
        """
        WITH lines AS (
            SELECT credit_note_id AS id, sum(net_minor) AS net, sum(tax_minor) AS tax
            FROM credit_note_line WHERE tenant_id = :tenant GROUP BY credit_note_id),
        stated AS (SELECT id, net_minor, tax_minor FROM credit_note WHERE tenant_id = :tenant)
        SELECT id AS subject,
               format('net off by %s, tax off by %s', coalesce(net_minor, 0) - coalesce(net, 0),
                      coalesce(tax_minor, 0) - coalesce(tax, 0)) AS found
        FROM stated FULL JOIN lines USING (id)
        WHERE coalesce(net_minor, 0) <> coalesce(net, 0) OR coalesce(tax_minor, 0) <> coalesce(tax, 0)
        """,
    ),
    Check(
        "invoice_line_credits",
        "credited columns of a line = sum of its credit note lines, and never above the line",
        """
        WITH credited AS (
            SELECT n.invoice_id, l.line_number, sum(l.net_minor) AS net, sum(l.tax_minor) AS tax
            FROM credit_note_line l
            JOIN credit_note n ON n.tenant_id = l.tenant_id AND n.id = l.credit_note_id
            WHERE l.tenant_id = :tenant GROUP BY n.invoice_id, l.line_number),
        stated AS (
            SELECT invoice_id, line_number, net_minor, tax_minor, credited_net_minor, credited_tax_minor
            FROM invoice_line WHERE tenant_id = :tenant)
        SELECT concat_ws('/', invoice_id, line_number) AS subject,
               format('net off by %s, tax off by %s', coalesce(credited_net_minor, 0) - coalesce(net, 0),
                      coalesce(credited_tax_minor, 0) - coalesce(tax, 0)) AS found
        FROM stated FULL JOIN credited USING (invoice_id, line_number)
        WHERE coalesce(credited_net_minor, 0) <> coalesce(net, 0) OR coalesce(credited_tax_minor, 0) <> coalesce(tax, 0)
           OR credited_net_minor > net_minor OR credited_tax_minor > tax_minor
        """,
    ),
    Check(
        "invoice_credits",
        "credited_minor = sum of the invoice's credit notes",
        """
        WITH made AS (
            SELECT invoice_id AS id, sum(net_minor + tax_minor) AS minor
            FROM credit_note WHERE tenant_id = :tenant GROUP BY invoice_id),
        stated AS (SELECT id, credited_minor AS minor FROM invoice WHERE tenant_id = :tenant)
        SELECT id AS subject, format('off by %s', coalesce(stated.minor, 0) - coalesce(made.minor, 0)) AS found
        FROM stated FULL JOIN made USING (id) WHERE coalesce(stated.minor, 0) <> coalesce(made.minor, 0)
        """,
    ),
    Check(
        "invoice_totals",
        "net + tax = total, each the sum of the lines",
        """
        WITH lines AS (
            SELECT invoice_id AS id, sum(net_minor) AS net, sum(tax_minor) AS tax
            FROM invoice_line WHERE tenant_id = :tenant GROUP BY invoice_id),
        stated AS (SELECT id, net_minor, tax_minor, total_minor FROM invoice WHERE tenant_id = :tenant)
        SELECT id AS subject,
               format('net off by %s, tax off by %s, total off by %s', coalesce(net_minor, 0) - coalesce(net, 0),
                      coalesce(tax_minor, 0) - coalesce(tax, 0), total_minor - net_minor - tax_minor) AS found
        FROM stated FULL JOIN lines USING (id)
        WHERE (net_minor = coalesce(net, 0) AND tax_minor = coalesce(tax, 0) AND total_minor = net_minor + tax_minor)
              IS NOT TRUE
        """,
    ),
    Check(
        "invoice_status",
        "draft: no number, nothing on it; issued: something open; settled: nothing open; void: nothing on it",
        """
        SELECT id AS subject,
               format('%s, %s open', status, CASE WHEN open > 0 THEN 'something' WHEN open = 0 THEN 'nothing'
                                                  ELSE 'less than nothing' END) AS found
        FROM (SELECT id, status, number, total_minor - paid_minor - credited_minor - written_off_minor AS open,
                     least(paid_minor, credited_minor, written_off_minor) AS least_part,
                     paid_minor = 0 AND credited_minor = 0 AND written_off_minor = 0 AS untouched
              FROM invoice WHERE tenant_id = :tenant) AS i
        WHERE (least_part >= 0 AND CASE status
                   WHEN 'draft' THEN number IS NULL AND untouched
                   WHEN 'issued' THEN number IS NOT NULL AND open > 0
                   WHEN 'settled' THEN number IS NOT NULL AND open = 0
                   WHEN 'void' THEN untouched END) IS NOT TRUE
        """,
    ),
)

_SEQUENCES = (
    Check(
        "document_numbers",
        "documents of a series and fiscal year are numbered 1 to the series' last number",
        """
        WITH numbered AS (
            SELECT number FROM invoice WHERE tenant_id = :tenant AND number IS NOT NULL
            UNION ALL SELECT number FROM credit_note WHERE tenant_id = :tenant),
        parsed AS (
            SELECT part[1] AS series, part[2]::int AS fiscal_year, part[3]::bigint AS position
            FROM numbered, LATERAL (SELECT regexp_match(number, '^([A-Z]+)-([0-9]{1,9})-([0-9]{1,18})$')) AS m (part)),
        documents AS (
            SELECT series, fiscal_year, count(*) AS documents, count(DISTINCT position) AS positions,
                   min(position) AS first, max(position) AS last
            FROM parsed GROUP BY series, fiscal_year),
        stated AS (SELECT series, fiscal_year, last_number FROM document_series WHERE tenant_id = :tenant)
        SELECT concat_ws('-', coalesce(series, 'unreadable'), fiscal_year) AS subject,
               format('%s documents, %s numbers from %s to %s, last given %s', coalesce(documents, 0),
                      coalesce(positions, 0), first, last, last_number) AS found
        FROM stated FULL JOIN documents USING (series, fiscal_year)
        WHERE (first = 1 AND last = last_number AND documents = last_number AND positions = last_number) IS NOT TRUE
        """,
    ),
    Check(
        "document_year",
        "the number of an invoice carries its fiscal year",
        """
        SELECT id AS subject, format('%s in %s', number, fiscal_year) AS found
        FROM invoice
        WHERE tenant_id = :tenant AND number IS NOT NULL AND split_part(number, '-', 2) <> fiscal_year::text
        """,
    ),
    Check(
        "command_sequence",
        # The inbox's clean-up takes away the oldest, always from the front.
        "stored outcomes are numbered without a gap up to the book's command sequence",
        """
        WITH placed AS (
            SELECT sequence, row_number() OVER (ORDER BY sequence) + min(sequence) OVER () - 1 AS place
            FROM inbox WHERE tenant_id = :tenant),
        counted AS (
            SELECT count(*) + coalesce(min(sequence) - 1, 0) AS outcomes,
                   min(place) FILTER (WHERE place <> sequence) AS first_gap FROM placed),
        book AS (
            SELECT coalesce(max(command_sequence), 0) AS command_sequence FROM tenant_book WHERE tenant_id = :tenant)
        SELECT 'inbox' AS subject,
               format('%s outcomes, first gap at %s, last given %s', outcomes, coalesce(first_gap::text, 'none'),
                      command_sequence) AS found
        FROM counted, book WHERE first_gap IS NOT NULL OR outcomes <> command_sequence
        """,
    ),
    Check(
        "command_outcome",
        "a stored outcome has either a result or an error",
        """
        SELECT command_id AS subject, CASE WHEN result IS NULL THEN 'neither' ELSE 'both' END AS found
        FROM inbox WHERE tenant_id = :tenant AND (result IS NULL) = (error IS NULL)
        """,
    ),
    Check(
        "ledger_event",
        "the event of every transfer was given out",
        """
        SELECT t.sequence AS subject,
               format('event %s, last given %s', t.event_sequence, coalesce(b.event_sequence, 0)) AS found
        FROM ledger_transfer t LEFT JOIN tenant_book b ON b.tenant_id = t.tenant_id
        WHERE t.tenant_id = :tenant AND t.event_sequence NOT BETWEEN 1 AND coalesce(b.event_sequence, 0)
        """,
    ),
    Check(
        "outbox_tail",
        "events not yet relayed are the last of the tenant's event sequence, without a gap",
        """
        WITH waiting AS (
            SELECT substring(convert_from(headers, 'UTF8') FROM 'ce-sequence: ?([0-9]{1,18})')::bigint AS event
            FROM outbox WHERE tenant_id = :tenant AND stream = 'events'),
        counted AS (
            SELECT count(*) AS events, count(DISTINCT event) AS sequences, min(event) AS first, max(event) AS last
            FROM waiting),
        book AS (
            SELECT coalesce(max(event_sequence), 0) AS event_sequence FROM tenant_book WHERE tenant_id = :tenant)
        SELECT 'outbox' AS subject,
               format('%s events, %s sequences from %s to %s, last given %s', events, sequences, first, last,
                      event_sequence) AS found
        FROM counted, book
        WHERE events > 0 AND (last = event_sequence AND sequences = events AND first = event_sequence - events + 1)
              IS NOT TRUE
        """,
    ),
)

CHECKS: tuple[Check, ...] = (*_LEDGER, *_DOCUMENTS, *_SEQUENCES)
