from t2l.cli.main import main

main()
