-- A small shop, made for these questions:  sqlite3 shop.sqlite < shop.sql
CREATE TABLE customer (id INTEGER PRIMARY KEY, name TEXT, city TEXT);
CREATE TABLE product (id INTEGER PRIMARY KEY, name TEXT, price REAL);
CREATE TABLE sale (customer INTEGER, product INTEGER, count INTEGER, day TEXT);
INSERT INTO customer VALUES
    (1, 'Ada', 'Lima'), (2, 'Grace', 'Paris'), (3, 'Alan', 'Lima'), (4, 'Barbara', 'Cusco'),
    (5, 'Edsger', 'Nice');
INSERT INTO product VALUES
    (1, 'chair', 49.5), (2, 'desk', 199.0), (3, 'lamp', 19.9), (4, 'pen', 1.2), (5, 'shelf', 89.0);
INSERT INTO sale VALUES
    (1, 1, 4, '2026-03-01'), (1, 3, 1, '2026-03-02'), (2, 2, 1, '2026-03-02'),
    (3, 4, 20, '2026-03-04'), (3, 3, 2, '2026-03-05'), (2, 5, 3, '2026-03-07');
