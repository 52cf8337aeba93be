#![cfg(polyquic_shuttle)]
